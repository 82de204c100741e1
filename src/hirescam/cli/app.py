"""The command line: words come in; tables, verdicts and files go out."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import hirescam
from hirescam.cli.console import say
from hirescam.cli.demonstrating import demo
from hirescam.cli.evaluating import evaluate
from hirescam.cli.explaining import explain
from hirescam.cli.exporting import export
from hirescam.cli.judging import certify, layers
from hirescam.cli.methods import compare, metrics, relate, rules
from hirescam.cli.status import FAILED, INTERRUPTED, OK, SOME_FAILED
from hirescam.cli.words import arranged
from hirescam.errors import HirescamError

app = typer.Typer(
    name="hirescam",
    help="Show what a convolutional network looked at, and prove whether the picture can be trusted.",
    epilog="Start with `hirescam demo`. `hirescam COMMAND --help` shows the options, and examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order of the help. A command is a function in a module of this package, and its name here.
for command in (demo, explain, compare, relate, evaluate, export, layers, certify, rules, metrics):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``hirescam``; None takes those of the process.

    Returns:
        The exit status: 0 done; 1 some pictures failed; 2 an error; 3 ``certify`` found less than exact or
        conditional, or an audit of ``explain`` failed; 130 interrupted.
    """
    words, debug = arranged(sys.argv[1:] if arguments is None else arguments)
    try:
        status = typer.main.get_command(app).main(args=words, prog_name="hirescam", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        say(_described(error))
        return FAILED
    say("interrupted" if status == INTERRUPTED else "")
    return status if isinstance(status, int) else OK


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hirescam {hirescam.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback behind an error.")] = False,
) -> None:
    """Show what a convolutional network looked at, and prove whether the picture can be trusted."""


def _described(error: Exception) -> str:
    usage: Callable[[], str] | None = getattr(error, "format_message", None)
    if usage:
        complaint = usage()
        return complaint and f"{complaint} (see 'hirescam --help', or --help after the command)"
    if isinstance(error, HirescamError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (repeat with --debug to see where)"
