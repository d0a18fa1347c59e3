"""The process of IotTest::MailServer: Debian's aiosmtpd, with recipients who say how it behaves.

    mail_server.py PORT FILE MODE [CERT KEY USER PASSWORD]     MODE: plain, starttls, smtps

What arrives is appended to FILE, a JSON object a line: attempts as they come to RCPT, messages as
they are accepted.
"""
import asyncio
import base64
import json
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult

PORT, FILE, MODE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
CERT, KEY, USER, PASSWORD = (sys.argv[4:] + [None] * 4)[:4]
later = {}


def record(**what):
    with open(FILE, "a") as out:
        out.write(json.dumps({"at": time.time(), **what}) + "\n")


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        record(what="rcpt", to=address)
        if name.startswith("later."):
            later[address] = later.get(address, int(name.split(".")[1])) - 1
            if later[address] >= 0:
                return "451 4.3.0 come back later"
        if name == "nobody":
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        to = envelope.rcpt_tos[0]
        record(what="message", sender=envelope.mail_from, to=to, recipients=len(envelope.rcpt_tos),
               tls=session.ssl is not None or MODE == "smtps",
               user=(session.auth_data.login.decode() if session.auth_data else None),
               data=base64.b64encode(envelope.original_content).decode())
        if to.startswith("hang@"):
            await asyncio.sleep(3600)
        if to.startswith("spam@"):
            return "554 5.7.1 we do not want this"
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    good = data.login == USER.encode() and data.password == PASSWORD.encode()
    return AuthResult(success=good, handled=good, auth_data=data)


async def main():
    context = None
    if CERT:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERT, KEY)
    options = {"hostname": "mail.example.org", "timeout": 60}
    if MODE == "starttls":
        options.update(tls_context=context, require_starttls=True)
    if USER:
        options.update(authenticator=authenticate, auth_required=True,
                       auth_require_tls=MODE == "starttls")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), loop=loop, **options), "127.0.0.1", PORT,
                                      ssl=context if MODE == "smtps" else None)
    async with server:
        await server.serve_forever()


asyncio.run(main())
