"""Engines: each file asks one kind of model, its packages imported when used."""
