"""Tables, figures and sentences from records."""
