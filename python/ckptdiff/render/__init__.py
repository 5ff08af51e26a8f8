"""A report as text: table for people, JSON and CSV for programs, Markdown and HTML for pages."""
