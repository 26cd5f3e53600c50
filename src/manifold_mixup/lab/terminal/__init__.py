"""Command lines and pages of help: options read from dataclasses, typos found, lists printed."""
