"""`cab audit report`: one HTML page that holds everything it shows. No script, no font, nothing from anywhere else."""
