"""Rollouts on vLLM, provably sampled from the current policy.

``base``      an engine, and its answers
``settings``  the section ``rollout`` of a configuration
``make``      the engine of a configuration, and the command of a server
``colocate``  an engine in the trainer's process
``served``    engines behind HTTP
``weights``   the policy's parameters, whole and merged
``transfer``  the receiving end, inside vLLM
``exchange``  the folder through which weights travel as files
``nccl``      the sending end, between GPUs
``access``    a server's key
``gate``      who may ask a server what, inside vLLM
``guard``     answers against the trainer's own log-probabilities
"""
