"""Autograd functions that compute what a plain formula says, faster."""
