"""A page to look at results: pictures with a slider, masks, scores and times, without a server."""
