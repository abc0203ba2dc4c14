"""Element contradiction: how far the relation of two tokens depends on the tokens between them."""
