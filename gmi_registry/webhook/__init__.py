"""Specifications that follow their models at once: what a hub says has changed is looked at.

A hub tells (:mod:`.payload`), a small server listens (:mod:`.receiver`) and notes (:mod:`.queue`),
a process of its own looks (:mod:`.worker`); or the hub starts a job that does all of it
(:mod:`.job`). :mod:`.install` asks the hub for either.
"""
