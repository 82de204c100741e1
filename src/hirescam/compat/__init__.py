"""Other libraries' interfaces on top of hirescam, so that their scripts run after changing the import."""
