"""Historical decay: how fast what a layer carries from token to token falls with distance."""
