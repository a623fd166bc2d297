"""What a replica does next: a pure scheduler of encoding, denoising and decoding. See README.md."""
