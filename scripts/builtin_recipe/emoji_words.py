"""Which emoji are worth drawing, and what to call them; their other names are tags in emojibase's data."""

from __future__ import annotations

# Labels of emojibase, in its order. Left out is what looks like a neighbour (faces and whole animals, clock faces,
# mailboxes), what fills a square (cities at dusk), signs, and what few could name. "label = name" stands for things
# whose label takes no article or says something else.
THINGS = """
monkey face = monkey, gorilla, poodle, wolf, raccoon, tiger face = tiger, horse face = horse, donkey, unicorn, zebra
deer, cow face = cow, ewe = sheep, camel, llama, giraffe, elephant, rhinoceros, hippopotamus, mouse face = mouse
hamster, beaver, hedgehog, bat, bear, polar bear, koala, sloth, skunk, kangaroo, chicken, rooster, bird, eagle, duck
swan, flamingo, peacock, parrot, black bird = crow, goose, crocodile, lizard, snake, dragon, T-Rex
spouting whale = whale, dolphin, blowfish, shark, spiral shell, jellyfish, crab, lobster, shrimp, snail
bug = caterpillar, ant, spider, spider web, scorpion, bouquet = bouquet of flowers, cherry blossom, hibiscus, tulip
seedling, potted plant, deciduous tree, four leaf clover, maple leaf, nest with eggs, mango, green apple, peach
blueberries = bunch of blueberries, kiwi fruit, tomato, coconut, eggplant, potato, hot pepper, bell pepper, cucumber
leafy green = head of lettuce, garlic, onion, pea pod, bread = loaf of bread, croissant, baguette bread = baguette
pretzel, bagel, pancakes = stack of pancakes, waffle, cheese wedge = piece of cheese, poultry leg = chicken leg
cut of meat = steak, bacon = strip of bacon, hot dog, sandwich, taco, egg, cooking = frying pan
green salad = bowl of salad, popcorn = box of popcorn, butter = piece of butter, salt = salt shaker, rice ball
cooked rice = bowl of rice, curry rice = plate of curry, steaming bowl = bowl of noodles
spaghetti = plate of spaghetti, sushi = piece of sushi, dumpling, fortune cookie, cookie, cupcake, pie, chocolate bar
candy, honey pot, baby bottle, glass of milk, teapot, teacup without handle = cup of tea
bottle with popping cork = bottle of champagne, wine glass = glass of wine, cocktail glass, beer mug, cup with straw
bubble tea, beverage box = juice box, ice = ice cube, spoon, kitchen knife, globe showing Americas = globe, world map
compass, snow-capped mountain, volcano, rock, wood = wooden log, hospital, factory, castle, Statue of Liberty, church
fountain, tent, ferris wheel, roller coaster, circus tent, locomotive = steam train, train, minibus, ambulance
fire engine = fire truck, police car, taxi, pickup truck, delivery truck, tractor, racing car, motorcycle
manual wheelchair = wheelchair, bicycle, skateboard, roller skate, fuel pump, wheel, police car light = siren
vertical traffic light = traffic light, stop sign, anchor, ring buoy, ferry, airplane, parachute, helicopter
satellite, flying saucer, bellhop bell, luggage, hourglass done = hourglass, watch, alarm clock
three o’clock = clock, full moon, crescent moon, thermometer, ringed planet, star, shooting star
cloud with lightning = storm cloud, cloud with rain = rain cloud, tornado, umbrella
umbrella on ground = beach umbrella, high voltage = lightning bolt, snowflake, water wave, jack-o-lantern = pumpkin
Christmas tree, party popper, ribbon, trophy, 1st place medal = gold medal, baseball, volleyball, american football
tennis = tennis racket, bowling = bowling ball, ice hockey = hockey stick, ping pong = ping pong paddle
badminton = badminton racket, boxing glove, ice skate, diving mask, sled, bullseye, yo-yo, kite, water pistol
pool 8 ball, crystal ball, magic wand, video game = game controller, slot machine, game die, puzzle piece, teddy bear
mirror ball = disco ball, nesting dolls = nesting doll, chess pawn, framed picture, artist palette
thread = spool of thread, yarn = ball of yarn, glasses = pair of glasses, sunglasses = pair of sunglasses, necktie
t-shirt, jeans = pair of jeans, scarf, gloves = pair of gloves, coat, socks = pair of socks, dress, bikini, purse
handbag, backpack, man’s shoe = leather shoe, running shoe, hiking boot, high-heeled shoe, woman’s boot = high boot
woman’s hat = sun hat, top hat, graduation cap, billed cap, lipstick, ring = diamond ring
speaker high volume = speaker, megaphone, musical note, microphone, headphone = pair of headphones, radio, saxophone
trumpet, accordion, guitar, musical keyboard, violin, drum, maracas = pair of maracas, mobile phone, telephone
battery, laptop, desktop computer, computer mouse, floppy disk, movie camera, clapper board, television, camera
magnifying glass tilted left = magnifying glass, candle, light bulb, flashlight, closed book, open book
books = stack of books, scroll, newspaper, coin, money bag, dollar banknote, credit card, envelope, package
closed mailbox with raised flag = mailbox, pencil, paintbrush, crayon, briefcase, calendar, clipboard, pushpin
paperclip, scissors, wastebasket, locked = padlock, hammer, axe, crossed swords = pair of swords, bomb
bow and arrow, shield, wrench, screwdriver, gear, toolbox, magnet, ladder, test tube, microscope, telescope, syringe
pill, adhesive bandage, stethoscope, door, mirror, window, bed, couch and lamp, chair, toilet, bathtub, broom, basket
roll of paper, bucket, soap, toothbrush, fire extinguisher, shopping cart, headstone
"""

# Tags, and labels that were given a name above, that name the thing itself; the others tell of it.
OTHER_NAMES = """
ale, alpaca, aubergine, bacon, bandage, bath, blueberries, blueberry, boba, books, boot, boulder, bouquet, bread
bulb, buoy, burro, butter, cab, cabbage, capsicum, cart, clover, cog, cogwheel, concertina, conch, controller, copter
couch, curry, denim, desktop, dice, die, dinosaur, doll, dromedary, drumstick, extinguisher, eyeglasses, fire engine
frankfurter, glasses, gloves, green salad, grizzly, hatchet, headphone, hippo, honeypot, hotcake, hotdog, ice, jacket
jeans, jet, jigsaw, kiwi, lamb, lettuce, lifesaver, loaf, locomotive, log, maracas, martini, matryoshka, mic
mirror ball, moneybag, monitor, mug, mule, nest, noodle, pail, pan, pancake, pancakes, parcel, pasta, pawn, pepper
piano, pickup, picture, pistol, planet, popcorn, popper, porkchop, potsticker, poultry leg, puzzle, ramen, raven
rucksack, salt, sapling, satchel, saturn, saucer, sausage, sax, serpent, shell, sneaker, socks, soda, spaghetti
spanner, spool, sprout, squeezebox, stiletto, stocking, stoplight, suitcase, sunglasses, sushi, swords, target, teddy
thunderbolt, tie, timber, tire, toast, tomb, tombstone, tophat, torch, trousers, tshirt, tv, tyrannosaurus, van, wand
wave, whirlwind, wine, wine glass, yarn
"""
