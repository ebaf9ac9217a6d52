"""The prompts task: any file of prompts, answered in free text."""
