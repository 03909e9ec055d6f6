"""Where data lies; opens with the storage issue, empty until then."""
