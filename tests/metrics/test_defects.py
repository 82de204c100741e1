"""An index: what goes wrong in metric libraries, and what ours promise, each with the tests that watch it.

Seventeen defects were found in the code of other libraries. Each has a test that ours does not share it and,
where that library can be installed, that it is still there.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

DEFECTS = {
    "1 Quantus: an empty mask and a map of zeros score hits; weighting fails": [
        "metrics/test_pointing.py::test_quantus_scores_a_hit_for_an_empty_mask_and_for_a_map_of_zeros",
        "metrics/test_localisation_laws.py::test_a_map_that_claims_nothing_never_hits",
    ],
    "2 Quantus: the object's size is that of a slice of the batch": [
        "metrics/test_pointing.py::test_quantus_measures_the_object_against_a_slice_of_the_batch",
    ],
    "3 Quantus: ROAD counts the first batch only": [
        "peers/test_quantus_perturbation.py::test_difference_road_counts_the_first_batch_only",
    ],
    "4 Quantus: completeness is an equality of floats": [
        "peers/test_quantus_faithfulness.py::test_difference_completeness_is_equality_of_floats",
        "peers/test_quantus_faithfulness.py::test_difference_completeness_of_an_exact_map_is_false",
        "metrics/test_faithfulness.py::test_completeness_error_by_hand",
    ],
    "5 Quantus: sensitivity-n draws no subsets and correlates across images": [
        "peers/test_quantus_faithfulness.py::test_difference_sensitivity_n_draws_nothing",
        "peers/test_quantus_faithfulness.py::test_difference_sensitivity_n_correlates_across_images",
        "metrics/test_faithfulness.py::test_subsets_have_n_cells_and_differ_between_images",
    ],
    "6 Quantus: infidelity repeats one deterministic run and is not rescaled": [
        "peers/test_quantus_perturbation.py::test_difference_infidelity_repeats_itself_and_depends_on_units",
        "metrics/test_infidelity.py::test_rescaling_is_the_best_there_is",
    ],
    "7 Quantus: the randomisation test averages the trained network in": [
        "peers/test_quantus_sanity.py::test_quantus_averages_the_trained_network_in",
        "metrics/test_sanity.py::test_the_mean_is_over_randomised_networks_alone",
    ],
    "8 Quantus: pixel flipping takes channels apart and its area has no scale": [
        "peers/test_quantus_perturbation.py::test_difference_pixel_flipping_takes_channels_apart",
        "metrics/test_perturbation.py::test_the_default_is_28_steps_and_all_channels_go_together",
    ],
    "9 pytorch-grad-cam: a threshold on values removes everything from a sparse map": [
        "peers/test_perturbation.py::test_difference_pytorch_grad_cam_road_removes_everything_at_once",
        "metrics/test_road.py::test_exactly_p_percent_of_a_map_of_zeros_go",
    ],
    "10 pytorch-grad-cam: drop and increase of logits, undivided": [
        "peers/test_perturbation.py::test_difference_pytorch_grad_cam_drops_by_logits",
        "metrics/test_confidence.py::test_logits_are_refused",
    ],
    "11 pytorch-grad-cam: ROAD's noise comes after normalisation": [
        "peers/test_perturbation.py::test_difference_pytorch_grad_cam_road_adds_its_noise_after_normalisation",
        "metrics/test_road.py::test_normalised_images_get_their_noise_in_their_own_units",
    ],
    "12 pytorch-grad-cam: ARCC is called geometric and is harmonic; sums of its maps mean nothing": [
        "metrics/test_composites.py::test_arcc_is_the_harmonic_mean_of_its_parts",
        "peers/test_perturbation.py::test_coherency_and_arcc_agree_with_pytorch_grad_cam",
        "peers/test_pytorch_grad_cam.py::test_difference_sign_and_size_are_lost",
    ],
    "13 Xplique: the noise of its stability is one-sided": [
        "metrics/test_robustness.py::test_noise_is_two_sided_up_to_the_radius_and_the_same_for_every_image",
    ],
    "14 Xplique: negative evidence is shown to the model; two constant maps are alike by accident": [
        "metrics/test_confidence.py::test_strong_negative_evidence_is_never_shown",
        "metrics/test_similarity.py::test_constant_maps_have_an_answer",
    ],
    "15 captum: infidelity depends on units, the radius is another library's tenth, maps are small": [
        "peers/test_perturbation.py::test_difference_captum_s_infidelity_depends_on_the_units_of_the_map",
        "peers/test_perturbation.py::test_difference_captum_s_radius_is_a_tenth_of_quantus_s",
        "peers/test_captum.py::test_difference_its_maps_have_the_size_of_the_layer",
    ],
    "16 MONAI: the normaliser turns maps upside down": [
        "metrics/test_overlap.py::test_monais_normaliser_turns_a_map_upside_down",
        "peers/test_monai.py::test_difference_the_returned_map_is_turned_upside_down",
    ],
    "17 AxialNet: OrganIoU gives a perfect map nothing": [
        "metrics/test_organs.py::test_the_reference_gives_a_perfect_map_nothing",
    ],
}

PROMISES = {
    "1 maps of affine heads add up to the score and are what removal costs, in 1, 2 and 3 dimensions": [
        "laws/test_laws.py::test_an_affine_head_obeys_both_laws",
        "metrics/test_faithfulness.py::test_hirescam_is_perfect_on_exact_heads",
    ],
    "2 pooled heads make CAM, Grad-CAM and HiResCAM one map, after the ReLU and not before": [
        "laws/test_theory.py::test_pooled_heads_make_cam_gradcam_hirescam_and_xgradcam_one_map",
        "laws/test_theory.py::test_a_layer_before_its_relu_changes_gradcam_and_not_hirescam",
    ],
    "3 the pointing game has the reference's rules": [
        "metrics/test_pointing.py::test_the_center_baseline_on_annotations_in_the_style_of_voc",
        "metrics/test_pointing.py::test_a_point_at_distance_15_misses_and_a_little_closer_hits",
        "metrics/test_pointing.py::test_the_mean_is_over_classes_that_have_a_sample",
        "metrics/test_ground_truth.py::test_a_pair_is_left_out_only_if_all_its_boxes_are_difficult",
        "metrics/test_ground_truth.py::test_hard_pairs_are_small_and_have_company",
    ],
    "4 constant, empty, negative and broken maps have a documented result, never a silent hit": [
        "metrics/test_localisation_laws.py::test_a_map_that_claims_nothing_never_hits",
        "metrics/test_localisation_laws.py::test_broken_maps_are_refused",
        "metrics/test_pointing.py::test_a_constant_map_misses_whatever_rounding_does_to_it",
        "metrics/test_pointing.py::test_a_map_without_a_positive_value_misses",
        "metrics/test_overlap.py::test_an_empty_mask_is_undefined_at_every_level",
    ],
    "5 deletion and insertion have closed forms on affine models, and ties a seed": [
        "metrics/test_perturbation.py::test_closed_form_on_an_affine_model",
        "metrics/test_perturbation.py::test_ties_are_drawn_from_the_seed_and_from_nothing_else",
    ],
    "6 ROAD removes exactly p % of a sparse map": [
        "metrics/test_road.py::test_exactly_p_percent_of_a_map_of_zeros_go",
    ],
    "7 average drop refuses logits, and a map of ones shows why it scores 0": [
        "metrics/test_confidence.py::test_logits_are_refused",
        "metrics/test_confidence.py::test_a_map_of_ones_loses_nothing_and_its_complexity_says_why",
    ],
    "8 exact maps have sensitivity-n 1 and infidelity 0; sparseness and complexity have their limits": [
        "metrics/test_faithfulness.py::test_hirescam_is_perfect_on_exact_heads",
        "metrics/test_infidelity.py::test_an_exact_map_has_no_infidelity_and_full_sensitivity_n",
        "metrics/test_shape.py::test_limits",
    ],
    "9 randomised networks: constant maps are scored, the trained network is left out": [
        "metrics/test_sanity.py::test_a_map_that_becomes_constant_is_scored",
        "metrics/test_sanity.py::test_a_constant_map_in_a_real_network_is_scored",
        "metrics/test_sanity.py::test_the_mean_is_over_randomised_networks_alone",
    ],
    "10 OrganIoU in both versions; maps can stand in a loss with the right gradient": [
        "metrics/test_organs.py::test_the_reference_gives_a_perfect_map_nothing",
        "metrics/test_organs.py::test_it_is_what_slow_loops_say",
        "test_explainer.py::test_maps_can_stand_in_a_loss",
    ],
    "11 digits with an unused half tell Grad-CAM from HiResCAM": [
        "tasks/test_tasks.py::test_cut_digits_tell_gradcam_from_hirescam",
    ],
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"
    }


@pytest.mark.parametrize("index", [DEFECTS, PROMISES], ids=["defects", "promises"])
def test_none_is_missing(index):
    assert [int(title.split()[0]) for title in index] == list(range(1, len(index) + 1))
    assert len(DEFECTS) == 17
    assert len(PROMISES) == 11


@pytest.mark.parametrize("title", [*DEFECTS, *PROMISES])
def test_each_is_watched_by_tests_that_exist(title):
    watched = [test for index in (DEFECTS, PROMISES) for test in index.get(title, ())]
    assert watched
    for test in watched:
        file, _, name = test.partition("::")
        assert name in names_in(file), f"{title}: there is no {test}; name the test that took its place"
