"""What the page is made of that NiceGUI does not bring."""
