"""CPU implementations that make training faster or possible; converted networks use them."""
