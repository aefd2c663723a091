"""Diffusion models for next-item recommendation as a plugin for RecBole."""

from __future__ import annotations

__version__ = "0.1.0"
