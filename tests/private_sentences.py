"""Sentences with labelled private data, all of it invented, and sentences that only look like it.

``⟦kind|text⟧`` is a label. A tilde in a key is left out when the sentence is read, so that no
scanner of repositories takes it for a real one. Forms that nobody promises to find are here too:
what is measured is to tell what is missed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuning.corpus.private_forms import KINDS

_LABEL = re.compile(rf"⟦({'|'.join(KINDS)})\|([^⟧]*)⟧")


@dataclass(frozen=True)
class Sentence:
    """A text and its labels: kind, start, end."""

    text: str
    labels: tuple[tuple[str, int, int], ...]


def read(marked: str) -> Sentence:
    """Take the labels out of a text."""
    parts: list[str] = []
    labels = []
    end = length = 0
    for label in _LABEL.finditer(marked):
        before = marked[end : label.start()]
        text = label[2].replace("~", "")
        labels.append((label[1], length + len(before), length + len(before) + len(text)))
        parts += [before, text]
        length += len(before) + len(text)
        end = label.end()
    return Sentence("".join([*parts, marked[end:]]), tuple(labels))


EMAILS = """\
write to ⟦email|jo.doe@example.com⟧ when you are back
⟦email|ann@example.org⟧
My address is ⟦email|a.b-c_d+lists@mail.example.co.uk⟧, ok?
<⟦email|sam.lee@example.net⟧>
(mailto:⟦email|info@example.edu⟧)
Kontakt: ⟦email|jürgen.groß@example.de⟧.
send it to ⟦email|JO.DOE@EXAMPLE.COM⟧!
both ⟦email|one@example.com⟧ and ⟦email|two@example.com⟧
⟦email|one@example.com⟧,⟦email|two@example.org⟧;⟦email|three@example.net⟧
it was "⟦email|o'brien@example.ie⟧" I think
⟦email|x@example.io⟧
⟦email|first.last@department.university.example.ac.jp⟧ replied
email=⟦email|user123@example.com⟧&next=1
From: Jo Doe <⟦email|jo@example.com⟧> Sent: Monday
my mail is ⟦email|jo_doe_1990@example.com⟧ or ask ⟦email|mia99@example.fr⟧
it's ⟦email|jo.doe [at] example [dot] org⟧, no spam please
⟦email|jo (at) example.org⟧ works
reach me at ⟦email|jo.doe(at)example(dot)com⟧
it's ⟦email|jodoe at gmail dot com⟧
⟦email|jo.doe at gmail.com⟧ is best
⟦email|mia99 @ yahoo.com⟧ thanks
yes ⟦email|jo dot doe at gmail dot com⟧, all lower case
my address is ⟦email|jo at example dot com⟧
⟦email|jo@example,com⟧ sorry on my phone
write ⟦email|jo@xn--bcher-kva.example⟧
⟦email|联系@example.cn⟧ 谢谢
пишите на ⟦email|anna@example.ru⟧, пожалуйста
user ⟦email|root@mail-01.example.com⟧ logged in
contact:⟦email|help-desk@support.example.com⟧/⟦email|sales@example.com⟧
that's e-mail ⟦email|jo@example.museum⟧
Meine Adresse lautet ⟦email|max.mustermann@example.at⟧
⟦email|jo@example.com⟧?subject=hi
did you get the mail from ⟦email|no-reply@notifications.example.com⟧ yesterday
Jo's mail: ⟦email|j@example.com⟧'s the one
JO ⟦email|JDoe@Example.Com⟧ JDOE
line one
⟦email|b.c@example.com⟧
"""

PHONES = """\
call me at ⟦phone|+1 202-555-0143⟧ tonight
⟦phone|+12025550191⟧
my number is ⟦phone|(212) 555-0187⟧
⟦phone|310-555-0122⟧
text ⟦phone|415.555.0133⟧ or ⟦phone|646 555 0175⟧
⟦phone|7185550164⟧
it's ⟦phone|1-800-555-0199⟧, ask for Jo
Tel.: ⟦phone|+49 30 1234567⟧
ruf an: ⟦phone|+49 1512 3456789⟧
⟦phone|0049 1512 3456789⟧ geht auch
⟦phone|+44 20 7946 0958⟧
UK mobile ⟦phone|+44 7400 123456⟧
⟦phone|+44 (0)20 7946 0958⟧ is the office
mon numéro : ⟦phone|+33 1 23 45 67 89⟧
⟦phone|+33123456789⟧
⟦phone|+91 81234 56789⟧ on whatsapp
⟦phone|+81 90-1234-5678⟧
⟦phone|+55 11 96123-4567⟧
⟦phone|+34 612 34 56 78⟧
⟦phone|+39 312 345 6789⟧ chiamami
⟦phone|+86 131 2345 6789⟧
⟦phone|+7 912 345-67-89⟧
⟦phone|+61 412 345 678⟧
⟦phone|+27 71 123 4567⟧
⟦phone|+52 222 123 4567⟧
⟦phone|+971 50 123 4567⟧
⟦phone|+972-50-234-5678⟧
⟦phone|+82 10-2000-0000⟧
⟦phone|+353 85 012 3456⟧
⟦phone|+41 78 123 45 67⟧
⟦phone|+43 664 123456⟧
⟦phone|+31 6 12345678⟧
⟦phone|+48 512 345 678⟧
⟦phone|+46 70 123 45 67⟧
⟦phone|+90 501 234 56 78⟧
office ⟦phone|(202) 555-0110 ext. 42⟧
⟦phone|202-555-0171 x12⟧
tel:⟦phone|+1-303-555-0148⟧
<a href="tel:⟦phone|+13035550148⟧">
phone=⟦phone|5035550119⟧
cell: ⟦phone|(503)555-0136⟧
⟦phone|1 (404) 555-0127⟧
Fax ⟦phone|404/555-0128⟧
you can reach my mom on ⟦phone|512-555-0185⟧ after 5
⟦phone|(512)  555-0186⟧
two lines: ⟦phone|602-555-0101⟧ / ⟦phone|602-555-0102⟧
call ⟦phone|602-555-0103⟧, room 204
my old number was ⟦phone|702-555-0118⟧; the new one is ⟦phone|702-555-0119⟧.
⟦phone|206 5550147⟧
call ⟦phone|2065550148⟧ or 911
please call ⟦phone|٢٠٢٥٥٥٠١٤٣⟧
⟦phone|555-0142⟧, same area code
number is ⟦phone|five one two, five five five, oh one nine nine⟧
ring ⟦phone|020 7946 0958⟧ in London
⟦phone|1-800-FLOWERS⟧
⟦phone|+1.617.555.0167⟧
WhatsApp +⟦phone|1 (617) 555-0168⟧
⟦phone|617‑555‑0169⟧
⟦phone|617–555–0170⟧
Jo, ⟦phone|9195550172⟧, jo's house
is this still ⟦phone|(919) 555 0173⟧?
sms to ⟦phone|919-555-0174⟧ now!!
"""

CARDS = """\
my card is ⟦card|4111 1111 1111 1111⟧
⟦card|4111111111111111⟧
⟦card|4111-1111-1111-1111⟧ exp 12/29
visa ⟦card|4012888888881881⟧, thanks
⟦card|4222222222222⟧ is an old one
mastercard ⟦card|5555 5555 5555 4444⟧ cvv 123
⟦card|5105105105105100⟧
⟦card|2223 0031 2200 3222⟧
amex ⟦card|3782 822463 10005⟧
⟦card|371449635398431⟧
⟦card|3714 496353 98431⟧ 12/27 1234
discover ⟦card|6011 1111 1111 1117⟧
⟦card|6011000990139424⟧
⟦card|3056 930902 5904⟧
⟦card|38520000023237⟧
jcb ⟦card|3530 1113 3330 0000⟧
⟦card|3566002020360505⟧
⟦card|6200 0000 0000 0005⟧
maestro ⟦card|6759 6498 2643 8453⟧
card number:⟦card|4242424242424242⟧.
it is ⟦card|4242 4242 4242 4242⟧ 123
"⟦card|5454545454545454⟧"
card=⟦card|4000056655665556⟧&cvc=1
⟦card|4000 0000 0000 0002⟧, declined again
pay with ⟦card|4917 6100 0000 0000⟧ ok
⟦card|4111.1111.1111.1111⟧
card ⟦card|4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1⟧
⟦card|4111  1111  1111  1111⟧
it begins with ⟦card|4111 1111 1111
1111⟧
kreditkarte ⟦card|4556737586899855⟧
"""

IBANS = """\
IBAN ⟦iban|DE89 3704 0044 0532 0130 00⟧
⟦iban|DE89370400440532013000⟧
send it to ⟦iban|GB29 NWBK 6016 1331 9268 19⟧, thanks
⟦iban|GB29NWBK60161331926819⟧.
iban: ⟦iban|FR14 2004 1010 0505 0001 3M02 606⟧
⟦iban|NL91ABNA0417164300⟧ BIC ABNANL2A
⟦iban|ES91 2100 0418 4502 0005 1332⟧
⟦iban|IT60 X054 2811 1010 0000 0123 456⟧
⟦iban|CH93 0076 2011 6238 5295 7⟧ Zürich
⟦iban|AT61 1904 3002 3457 3201⟧
⟦iban|BE68 5390 0754 7034⟧ is mine
⟦iban|NO93 8601 1117 947⟧
⟦iban|SE45 5000 0000 0583 9825 7466⟧
⟦iban|PL61109010140000071219812874⟧
⟦iban|GR16 0110 1250 0000 0001 2300 695⟧
⟦iban|SA03 8000 0000 6080 1016 7519⟧
⟦iban|BR18 0036 0305 0000 1000 9795 493C 1⟧
⟦iban|MT84MALT011000012345MTLCAST001S⟧
⟦iban|IE29 AIBK 9311 5212 3456 78⟧
⟦iban|PT50-0002-0123-1234-5678-9015-4⟧
(IBAN:⟦iban|DK5000400440116243⟧)
konto ⟦iban|fi21 1234 5600 0007 85⟧ danke
⟦iban|de89370400440532013000⟧
account ⟦iban|DE89 3704 0044 0532 0130 00⟧ BIC COBADEFFXXX
⟦iban|DE 89 3704 0044 0532 0130 00⟧
"""

ADDRESSES = """\
my ip is ⟦ip|203.0.113.42⟧
⟦ip|192.168.1.10⟧ is the printer
ping ⟦ip|198.51.100.7⟧!
http://⟦ip|192.0.2.55⟧:8080/admin
ssh root@⟦ip|203.0.113.9⟧
from ⟦ip|10.12.14.16⟧ to ⟦ip|10.12.14.17⟧
ip=⟦ip|172.16.254.1⟧
[⟦ip|203.0.113.77⟧]
blocked (⟦ip|198.51.100.200⟧) today
subnet ⟦ip|192.168.0.17⟧/24
⟦ip|2001:db8::1⟧
⟦ip|2001:0db8:85a3:0000:0000:8a2e:0370:7334⟧
[⟦ip|2001:db8::8a2e:370:7334⟧]:443
⟦ip|fe80::1ff:fe23:4567:890a⟧%eth0
⟦ip|fd12:3456:789a:1::1⟧/64 at home
addr: ⟦ip|2001:DB8:0:0:8:800:200C:417A⟧
⟦ip|::ffff:192.0.2.128⟧
the server at ⟦ip|203.0.113.5⟧, port 22
⟦ip|8.8.8.8⟧ is google
host ⟦ip|100.64.3.2⟧ did not answer
IP: ⟦ip|203.0.113.1⟧.
my ip was ⟦ip|203.0.113.12⟧, now it's ⟦ip|203.0.113.13⟧
x-forwarded-for: ⟦ip|203.0.113.60⟧, ⟦ip|198.51.100.61⟧
⟦ip|203.0.113.42⟧-⟦ip|203.0.113.50⟧
inet6 ⟦ip|2a00:1450:4001:81b::200e⟧ prefixlen 64
"""

KEYS = """\
⟦key|AK~IAIOSFODNN7EXAMPLE⟧
aws key ⟦key|AK~IAI44QH8DHBEXAMPLE⟧, rotate it
token ⟦key|gh~p_16C7e42F292c6912E7710c838347Ae178B4a⟧
⟦key|github~_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789A⟧
OPENAI_API_KEY=⟦key|s~k-abcdEFGH1234ijklMNOP5678qrstUVWX9012yzABCDEF3456⟧
use ⟦key|s~k-proj-a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6⟧ for now
⟦key|s~k-ant-api03-a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6-AA⟧
slack ⟦key|xo~xb-123456789012-1234567890123-a1B2c3D4e5F6g7H8i9J0k1L2⟧
⟦key|AI~zaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q⟧
⟦key|sk~_live_a1B2c3D4e5F6g7H8i9J0k1L2⟧
⟦key|eyJ~hbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w⟧
Authorization: Bearer ⟦key|eyJ~hbGciOiJSUzI1NiJ9.eyJpc3MiOiJleGFtcGxlIn0.c2lnbmF0dXJl⟧
Authorization: Bearer ⟦key|a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6⟧
⟦key|hf~_AbCdEfGhIjKlMnOpQrStUvWxYz12345678⟧
⟦key|glpa~t-a1B2c3D4e5F6g7H8i9J0⟧
⟦key|np~m_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8⟧
telegram ⟦key|123456789:AA~Ea1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6⟧
⟦key|S~G.a1B2c3D4e5F6g7H8i9J0kQ.a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V⟧
password: ⟦key|hunter2⟧
my password is ⟦key|Tr0ub4dor&3⟧!
the wifi password is ⟦key|sunny-day-42⟧, ok
Passwort: ⟦key|Geheim2024!x⟧
DB_PASSWORD=⟦key|p4ssw0rd-prod⟧
"password": "⟦key|c0rrect.h0rse⟧"
pwd=⟦key|abc12345⟧
api key: ⟦key|9f86d081884c7d659a2feaa0c55ad015⟧
api_key = '⟦key|a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6⟧'
apikey:⟦key|0123456789abcdef0123456789abcdef⟧
client_secret=⟦key|Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA==⟧
AWS_SECRET_ACCESS_KEY=⟦key|wJa~lrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1⟧
the access token is ⟦key|d41d8cd98f00b204e9800998ecf8427e⟧
secret: ⟦key|e3b0c44298fc1c149afbf4c8996fb924⟧
postgres://⟦key|admin:s3cret⟧@db.example.com/app
https://⟦key|jo:pa55word⟧@example.com/private
git clone https://⟦key|jo:gh~p_16C7e42F292c6912E7710c838347Ae178B4a⟧@github.com/jo/x
the passphrase is ⟦key|correct horse battery staple⟧
password is ⟦key|letmein⟧
the code for the door is ⟦key|4711#⟧
my passcode is ⟦key|482913⟧
token=⟦key|f47ac10b58cc4372a5670e02b2c3d479⟧
⟦key|-----BEGIN RSA PRI~VATE KEY-----
MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu
KUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END RSA PRI~VATE KEY-----⟧
⟦key|-----BEGIN OPENSSH PRI~VATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gt
-----END OPENSSH PRI~VATE KEY-----⟧
"""

NONE = """\
see you at 10:30 on 2026-11-28, we are 42 people
my birthday is 12/04/1998
28.11.2026 10:30:45 CET
2026-11-28T10:30:45.123456Z
it was 1998, 2002, 2006 and 2010
from 2014-2016 I lived there, before that 2010-2014
1990 1991 1992 1993
that is $1,234,567.89
1.234.567,89 €
USD 8015550199
it costs 2125550187 dollars
8,015,550,199 people
1000000000 times better
2125550187 views
0.1234567890123
3.14159265358979323846
30.26715231, -97.74306079
40.712776, -74.005974
lat 51.5073509 lon -0.1277583
N 40° 42' 46.022", W 74° 0' 21.388"
the score was 21-18 21-19 15-21
10 20 30 40 50 60 70 80
30 25 55 60 12
1 2 3 4 5 6 7 8 9 10 11 12
12 34 56 78 90 12
ISBN 978-0-306-40615-7
ISBN 0306406152
ISSN 2049-3630
doi:10.1000/182.2125550
order 2125550187 has shipped
order number 8015550199
Order #4155550133
ticket no. 3105550122
tracking number 1Z999AA10123456784
tracking 9400111202555012345678
invoice 2025550143-01
Bestellnummer 7185550164
account 6465550175
customer id: 2065550148
case number 5035550119
#2125550187
serial 5125550185
flight UA1234 and LH 400
transaction 4045550127 failed
timestamp 1700000000
unix time 1732790400
1732790400123
v1.2.3.4
version 10.0.0.1 is out
firmware 2.14.10.33
==1.22.333.4
update to 12.0.1.23 please
Chrome/120.0.0.0 Safari/537.36
Chrome 119.0.6045.105
section 10.11.12.13
see 1.2.3.4
1.3.6.1.4.1.311
127.0.0.1 is home
0.0.0.0:8000
mask 255.255.255.0
10.0.0.0/8
999.888.777.666
300.12.14.16
10:30:45:12
00:1A:2B:3C:4D:5E
std::vector<int> x
add::face and dead::beef
::1
a::b::c
Foo::Bar::baz()
12:30::45
@jo are you there?
hey @ann_99 and @bob
meet me @ home
@property
@dataclass(frozen=True)
@media print { }
icon@2x.png
logo@3x.webp please
lodash@4.17.21
npm i react@18.2.0-rc.beta
@types/node@20.1.0
git@github.com:team/project.git
git clone git@gitlab.example.com:team/sub/project.git
user@localhost
a@b
50 @ 3.99
5@10
foo@bar
shop at amazon dot com
look at yahoo news, then at google
she is at example (dot) the end
at hotmail we had a lot of fun
a dot b dot c
look at outlook for the dates
@ gmail I found it
mail me at home
#ff8800 and #1a2b3c
rgb(255, 136, 0)
0xDEADBEEF00C0FFEE
123e4567-e89b-12d3-a456-426614174000
f47ac10b-58cc-4372-a567-0e02b2c3d479
commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b
sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
md5: d41d8cd98f00b204e9800998ecf8427e
4111 1111 1111 1112
1234 5678 9012 3456
1234567890123456
9999888877776666
0000 0000 0000 0000
4111 1111 1111
412345678901
123456789012
490154203237518 is an IMEI
DE88 3704 0044 0532 0130 00
GB30NWBK60161331926819
AB12 3456 7890 1234
DE12
US64 SVBK USD1 2345 6789
BIC COBADEFFXXX
VAT DE123456789
password is wrong
I forgot my password again
reset your password: click here
password: ********
password: <your password>
password=${DB_PASSWORD}
the key is under the mat
the key is patience, 2 cups of it
token ring networks of 1990
max tokens: 128000
tokens: 4096
the secret is 42
secret: never give up
the key to success is hard-work and 10,000 hours
keyboard: qwerty123
monkey: business2024now
passed: 12 of 14 tests
compass: north45
api key goes here
bearer of bad news 2
sk-learn-is-a-package-name
risk-assessment-of-the-project-2024
hf_hub_download
task-force-one-hundred-twenty-three-4
eyJust kidding
xoxo-xoxo-xoxo
https://example.com/item/8015550199
https://example.com/?id=2125550187
https://example.com/a/2017/10/30/16569402/title-of-it
https://example.com/watch?v=dQw4w9WgXcQ&t=42
http://example.com:8080/path@2/x
/var/log/2025550143.log
IMG_20251128_103045.jpg
file_7185550164.pdf
room 204, floor 12, building 7
route 66, exit 1234, mile 567
zip 94103-1234
P.O. Box 123456
SKU 5125550185
part number 602-555-0101
2 + 2 = 4 and 7 * 8 = 56
123-45-6789
5'11" and 180 lbs
1/2 3/4 5/8 7/16 9/32
1e10 and 6.022e23
n=1234567, p=0.00012345
0011010010110100101
12354548514555
99956644665999
998877778899 is an example
4 8 15 16 23 42
142, 235, 224, 250, 341, 314
341 314 313 and 331
call me maybe
phone bill: $89.99
call 911 or 112
dial 0 for help
pages 120-135, 2018
vol. 12, no. 3, pp. 345-367 (2019)
Psalm 119:105-112
1:23.456, 1:24.001, 1:24.789
15-20% of 1,200,000
windows 10.0.19045.3693
iOS 17.1.2 and Android 14
GPT-4 vs gpt-3.5-turbo-0125
temperature 20.5, 21.0, 19.8, 18.25
192.168 is how they begin
one@two three@four
hahahahahahahahahahahaha2
aaaaaaaaaaaaaaaaaaaa
-----BEGIN CERTIFICATE-----
my student id is 123456789
born 1998-2002 or so 10 11 12
"""


def sentences() -> list[Sentence]:
    """Every sentence; one that goes over lines has a label that does."""
    found: list[Sentence] = []
    for block in (EMAILS, PHONES, CARDS, IBANS, ADDRESSES, KEYS, NONE):
        text = ""
        for line in block.splitlines():
            text = f"{text}\n{line}" if text else line
            if text.count("⟦") == text.count("⟧"):
                found.append(read(text))
                text = ""
    return found
