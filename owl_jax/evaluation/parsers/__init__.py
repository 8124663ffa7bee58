"""What several benchmarks read in an answer, by kind: yes or no, a choice, ..."""
