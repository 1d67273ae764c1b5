"""What the faults of containers share: the engine's door (`engine`), whom it hits (`chosen`), and looks at them."""
