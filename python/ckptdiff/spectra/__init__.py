"""Singular values of weight matrices, and what is read from them."""
