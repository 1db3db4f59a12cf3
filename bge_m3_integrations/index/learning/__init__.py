"""Learning weights from an index alone: questions taken out of their documents."""
