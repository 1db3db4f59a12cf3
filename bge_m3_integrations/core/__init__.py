"""Values and pure functions: embeddings, scores, records, filters, fusion."""
