"""Raw records to clean dialogues on their side of the split, all of them accounted for."""
