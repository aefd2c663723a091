"""Many runs and what they show together: suites of models, datasets and seeds; tables; reports."""
