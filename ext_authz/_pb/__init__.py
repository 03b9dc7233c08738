"""Generated from proto/ by the build (and by ``make proto``); never edited by hand."""
