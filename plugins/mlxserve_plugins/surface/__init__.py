"""What every API surface needs: tables of fields, bodies read by them, notes of what changed."""
