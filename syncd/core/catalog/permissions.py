"""Explain a refused write from the user profile. Used for messages only, never to refuse a call."""

from syncd.types import Profile, Team

WRITERS = ("owner", "admin")
"""Roles that can change models; the others can only view and run workflows."""


def team_of(profile: Profile, team_id: str | None) -> Team | None:
    """Return the team with *team_id*, or the only team if there is no id."""
    if team_id is None:
        return profile.teams[0] if len(profile.teams) == 1 else None
    return next((team for team in profile.teams if team.id == team_id), None)


def describe_permissions(profile: Profile, team_id: str | None) -> str:
    """Describe role and licence; *team_id* is None for a device key, whose team is unknown."""
    return " ".join((_role(profile, team_id), *_licence(profile)))


def _role(profile: Profile, team_id: str | None) -> str:
    who, team = f"The credential acts for {profile.name}", team_of(profile, team_id)
    if team_id is not None and team is None:
        return f"{who}, who is not in the team {team_id}."
    if team is None or team.role is None:
        return (
            f"{who}; the server does not report the role in the team. Owners and admins may write."
        )
    if team.role.lower() in WRITERS:
        return f"{who}, {team.role} of the team {team.name}, so the role allows it."
    return f"{who}, {team.role} in the team {team.name}: only owners and admins may write models."


def _licence(profile: Profile) -> list[str]:
    off = [f"{feature} ({block})" for feature, block in profile.switched_off]
    return [f"Switched off by the licence: {', '.join(off)}."] if off else []
