"""What a model is worth: validation loss and bits per byte, and the choices that it makes."""
