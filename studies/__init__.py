"""What only we run, on top of the bundle: evidence pages, model card, prior models. The bundle never imports it."""
