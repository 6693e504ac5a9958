"""What a person looks at: contact sheets, plots, heat-maps."""
