"""Events of kind `entity`: what is true of an item or a person from a time on."""
