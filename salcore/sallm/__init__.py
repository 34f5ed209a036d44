"""SalLM: language models whose attention is taught by saliency explanations.

A teacher is trained on the task, its saliency maps say which tokens mattered, and a student is trained on the task and
to attend to those tokens. Training Language Models with Saliency Explanations (Lake, 2021).
"""
