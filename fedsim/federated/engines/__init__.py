"""What carries Flower's messages: worker processes here, Ray actors, or a SuperLink and its SuperNodes."""
