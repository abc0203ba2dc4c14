"""Models side by side: decay, contradiction, and how far each map of relevance is faithful to the model."""
