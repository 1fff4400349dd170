"""What runs where the data is: the two learners and the ClientApp around them."""
