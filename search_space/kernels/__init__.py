"""Fast forms of single operations: tensors in, tensors out."""
