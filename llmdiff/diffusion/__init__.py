"""The frozen base model: its U-Net and noise schedule, its autoencoder, its own text encoder.

Pictures are drawn with it in `llmdiff.sampling`.
"""
