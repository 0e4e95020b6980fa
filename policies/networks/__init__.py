"""Networks: denoisers of action chunks and encoders of images."""
