"""An app whose models are fenced, in all the ways that Django's models come in."""
