"""The commands about services.  ``cutlayer.cli`` registers them; heavy imports happen inside them."""
