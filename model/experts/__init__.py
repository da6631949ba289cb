"""Mixture-of-experts layers whose experts are split across the ranks of one replica."""
