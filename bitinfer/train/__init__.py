"""Training of binarized models; needs the extra ``train``."""
