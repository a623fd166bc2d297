"""How the embedded model is made: concepts, text encoder, scenes, training."""
