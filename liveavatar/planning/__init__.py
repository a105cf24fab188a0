"""Pure decisions: how a request will be carried out on this hardware. No torch."""
