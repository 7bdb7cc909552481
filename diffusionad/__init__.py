"""Anomaly detection in images of industrial parts by norm-guided one-step denoising diffusion."""
