"""The mathematics of the studies: encodings to compare with, their geometry, intervals, a student of a closed LLM."""
