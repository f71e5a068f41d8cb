"""Teachers and their pairs: data sets, denoisers, EDM's sampler, and the stage that writes noise–image pairs."""
