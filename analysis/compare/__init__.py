"""Models side by side: decay, contradiction, and how faithful each ranking of relevance is to the model."""
