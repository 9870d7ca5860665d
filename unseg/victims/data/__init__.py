"""What a victim learns from: published pictures, their labels, defences on them."""
