"""Races: several system calls under way at once, in an order that is pinned or in every order there is."""
