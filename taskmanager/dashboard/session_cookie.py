"""The cookie that holds a session: signed, and sent to the dashboard's own paths alone."""

from flask import Flask, request
from flask.sessions import SecureCookieSessionInterface

from taskmanager.dashboard import PREFIX


class SessionCookie(SecureCookieSessionInterface):
    """Flask's signed cookie, sent to no address outside the dashboard.

    SameSite is Lax: a link in an alert's mail opens its page without signing in again.
    """

    def get_cookie_name(self, app: Flask) -> str:
        return "taskmanager_session"

    def get_cookie_path(self, app: Flask) -> str:
        return request.script_root + PREFIX

    def get_cookie_httponly(self, app: Flask) -> bool:
        return True

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_samesite(self, app: Flask) -> str:
        return "Lax"
